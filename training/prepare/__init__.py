"""From videos and photographs to face frames as the method's data sets have them: 256×256, a manifest beside them."""
