"""What a site does in a round: some steps of gradient descent on its own data."""

import time

import numpy as np
# Flower's older names: 1.19 knows no others, and newer ones keep them.
from flwr.client import ClientApp
from flwr.common import ArrayRecord, Context, Message, MetricRecord, RecordDict

app = ClientApp()


def own_data(partition: int) -> tuple[np.ndarray, np.ndarray]:
    """Stands for the site's records: they never leave it."""
    random = np.random.default_rng(partition)
    x = random.normal(size=(64, 3))
    return x, x @ np.array([1.0, -2.0, 0.5]) + random.normal(scale=0.01, size=64)


@app.train()
def train(message: Message, context: Context) -> Message:
    partition = int(context.node_config["partition-id"])
    round_ = int(message.content["config"]["round"])
    weights = message.content["weights"].to_numpy_ndarrays()[0]
    x, y = own_data(partition)
    print(f"site {partition}: round {round_} begins", flush=True)
    time.sleep(float(message.content["config"]["seconds"]))
    for _ in range(20):
        weights = weights - 0.05 * x.T @ (x @ weights - y) / len(y)
    loss = float(np.mean((x @ weights - y) ** 2))
    print(f"site {partition}: round {round_} done, loss {loss:.6f}", flush=True)
    content = RecordDict({
        "weights": ArrayRecord([weights]),
        "metrics": MetricRecord({"loss": loss, "partition": partition}),
    })
    return Message(content, reply_to=message)
