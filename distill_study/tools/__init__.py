"What looks on: doctor, comparison, sharing, exploring."
