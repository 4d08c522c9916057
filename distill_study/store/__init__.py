"The append-only record of completions, finished stages and trained students."
