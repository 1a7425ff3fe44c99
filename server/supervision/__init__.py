"""One server process, one real inference, the judgement of both, and the loop that starts it again."""
