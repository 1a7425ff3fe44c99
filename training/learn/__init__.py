"""Stand-in weights that have learnt something: manipulations of sample photographs, told from the photographs.

What comes of it is good for trying the software on scores that mean something, and for nothing else.
"""
