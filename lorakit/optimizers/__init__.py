"""AdamW and the forms its state can take; knows neither model files nor training data."""
