"""What the aggregator does: rounds with whoever is online, so that one lost site stops no other."""

import time

import numpy as np
from flwr.common import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.server import Grid, ServerApp

app = ServerApp()


def nodes_online(grid: Grid, least: int) -> list[int]:
    """Waits until so many nodes are online."""
    while len(nodes := list(grid.get_node_ids())) < least:
        time.sleep(1)
    return nodes


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    weights = np.zeros(3)
    nodes_online(grid, int(config["nodes"]))
    for round_ in range(1, int(config["rounds"]) + 1):
        nodes = nodes_online(grid, 1)
        content = RecordDict({
            "weights": ArrayRecord([weights]),
            "config": ConfigRecord({"round": round_, "seconds": float(config["seconds"])}),
        })
        messages = [Message(content, node, "train", group_id=str(round_)) for node in nodes]
        print(f"round {round_}: asked {len(nodes)} nodes", flush=True)
        replies = list(grid.send_and_receive(messages, timeout=float(config["patience"])))
        for reply in replies:
            if reply.has_error():
                print(f"round {round_}: error {reply.error.code}: {reply.error.reason}", flush=True)
        good = [reply.content for reply in replies if reply.has_content()]
        if good:
            weights = np.mean([content["weights"].to_numpy_ndarrays()[0] for content in good], axis=0)
        sites = sorted(int(content["metrics"]["partition"]) for content in good)
        loss = np.mean([content["metrics"]["loss"] for content in good]) if good else float("nan")
        print(f"round {round_}: sites {sites} of {len(nodes)} asked, loss {loss:.6f}", flush=True)
    print(f"finished: weights {np.round(weights, 3).tolist()}", flush=True)
