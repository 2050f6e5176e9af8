"""A model file becomes a web page and `POST /predict`."""
