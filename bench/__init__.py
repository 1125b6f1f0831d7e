"""What is run from the checkout and never installed: the demo."""
