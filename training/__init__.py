r"""Training of the three streams: recipes, data, the loop, and checkpoints in the published layout.

python -m training prepare VIDEOS_OR_IMAGES... --output data/
python -m training fit --recipe global_texture --data data/manifest.csv --base facebook/dinov2-giant \
        --output runs/global
"""
