"""Score a data set on Spark. Needs: pip install './client[spark]', on the workers too, and Java 17 or later."""

import argparse
from functools import partial

from deepfake_client.spark import VERDICT_TYPE, make_predict_fn
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("images", help="folder or address that Spark reads")
parser.add_argument("output", help="where the verdicts go, as Parquet")
parser.add_argument("--url", default="localhost:8001", help="HOST:PORT of the server")
options = parser.parse_args()

# Spark hands 10000 rows at a time to Python unless told otherwise: with image bytes in them that is gigabytes.
spark = SparkSession.builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", 256).getOrCreate()
make = partial(make_predict_fn, url=options.url, max_in_flight=1)
score = predict_batch_udf(make, return_type=VERDICT_TYPE, batch_size=256)
images = spark.read.format("binaryFile").load(options.images)
verdicts = images.select("path", score("content").alias("verdict")).select("path", "verdict.*")
verdicts.write.parquet(options.output)
