"""Names under which a search keeps its own facts in Optuna's storage.

Searches that version 0.1 (commit c940516) began hold the same names: under others they could not go on.
"""

OBJECTIVES = ("validation accuracy", "parameters")  # a search has the first one, or both

# on a study
SEARCH_ID = "id"  # tells searches of the same name apart; all their MLflow runs carry it as a tag
FINGERPRINT = "identity"  # what must stay the same for the trials to be comparable
COMPARED = "compared"  # confirmations whose outcome is known: each one makes the next p value larger
CONFIRMED = "confirmed"  # confirmations that have ended

# on a trial
VARIANT = "variant"  # name of the variant that it trains
HOST = "host"  # computer that asked for it
LAST_HEARTBEAT = "alive"  # Unix time in seconds
RUN_ID = "run_id"  # its MLflow run
PARAMETER_COUNT = "parameters"  # of its model; stored last, so a trial that has it is completely suggested
RETRY_OF = "retry_of"  # number of the trial that it repeats
KILLS = "kills"  # how often a process died while the trial trained
