"One combination as a `Run`, a recipe as a plan of stages, and what carries it out."
