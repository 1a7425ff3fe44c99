"""What is sent: images from files or memory, and the faces that are cut out of them."""
