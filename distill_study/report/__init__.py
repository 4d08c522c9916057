"Tables, figures, sentences and pages made of an analysis."
