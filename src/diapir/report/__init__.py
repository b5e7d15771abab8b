"""Figures and the HTML report: plain arrays and numbers in, PNG and one HTML file out."""
