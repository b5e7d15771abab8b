"""What other programs and people with a browser see: the REST service and the viewer."""
