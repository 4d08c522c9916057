"`python -m distill_study` is the command `distill-study`."

from distill_study.cli import main

if __name__ == "__main__":
    main()
