"Intervals, tests, agreement, pitfalls and transfer: what grades say."
