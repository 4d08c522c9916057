"Examples from anywhere, split and checked, and the generated world."
