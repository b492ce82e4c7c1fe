"""The side-by-side study: which regularizer helps, on your model and your task, under one protocol."""
