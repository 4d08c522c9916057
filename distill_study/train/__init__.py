"Supervised fine-tuning of students: rows, methods, saving, several processes."
