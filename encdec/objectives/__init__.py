"""What is minimised and what is measured: in torch alone, without Lightning."""
