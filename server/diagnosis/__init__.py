"""What a server needs on a machine: each check with its finding and its fix; the doctor shows them all."""
