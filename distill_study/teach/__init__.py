"The teacher asked through the store, and its answers curated into training rows."
