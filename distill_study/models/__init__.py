"Weights, and the engines that turn messages into completions."
