"""Many images in constant memory: inputs, batching, and outputs that an interrupted run resumes."""
