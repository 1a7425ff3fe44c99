"""Score a data set on a Ray cluster. Needs: pip install './client[ray]', on the workers too."""

import argparse

import ray
from deepfake_client.ray import DetectorScorer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("images", help="folder or address that Ray reads, such as s3://bucket/images")
parser.add_argument("output", help="where the verdicts go, as Parquet")
parser.add_argument("--url", default="localhost:8001", help="HOST:PORT of the server")
parser.add_argument("--scorers", type=int, default=2)
options = parser.parse_args()

images = ray.data.read_binary_files(options.images, include_paths=True)
verdicts = images.map_batches(
    DetectorScorer,
    fn_constructor_kwargs={"url": options.url},
    batch_format="pyarrow",
    batch_size=256,
    num_cpus=0.25,  # scorers mostly wait: whole CPUs might leave none to read the images
    compute=ray.data.ActorPoolStrategy(size=options.scorers),
)
verdicts.write_parquet(options.output)
