"""What the pool and its decoding processes say to each other, one packet at a time."""

import struct

DESK_BYTES = 4 << 20
"""Of the shared memory that a worker keeps, for images that fit; another one comes in memory of its own."""

JOB = struct.Struct("<QQQQd4I?")
"""Bytes of the file, where the pixels go and how many bytes they take, both in the shared memory; bytes of memory and
seconds of processor time that decoding may take; canvas width, height, x and y, and whether there is a canvas."""

ANSWER = struct.Struct("<II")
"""Height and width of the image; both 0 where there is none: then the status, a NUL and the message follow."""

PID = struct.Struct("<q")

LONGEST_MESSAGE = 4096
"""Bytes of that status and message."""
