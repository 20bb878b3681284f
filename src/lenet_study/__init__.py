"""The five-model LeNet-5 study on Fashion-MNIST, as an MLflow Project."""
