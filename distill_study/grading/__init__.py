"Answers graded by ground truth, by a judge and by people."
