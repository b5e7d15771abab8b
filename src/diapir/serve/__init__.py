"""The REST service, and the page in the browser."""
