#!/bin/sh -e
# Measure the served detector on labelled images: a folder with real/ and fake/, or a CSV file with path and label.
# Usage: examples/evaluate.sh DATA OUTPUT [HOST:PORT]
python -m forensics evaluate "$1" --output "$2" --url "${3:-localhost:8001}"
