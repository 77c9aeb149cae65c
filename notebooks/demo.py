# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What happened to the facts?
#
# A walk through the results of `kcircuits demo`: a language model was trained further on documents
# about invented people, every epoch was saved, and for every fact and epoch a *knowledge circuit*
# was extracted. Which facts came, which went, and did their circuits change by more than the noise
# of the method?
#
# Make the results first with `kcircuits demo` (or `kcircuits demo --preset smoke`). Another folder
# than `kcircuits-demo` can be named in the environment variable `KCIRCUITS_DEMO`.

# %%
import os
from collections import Counter
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

import kcircuits as kc

folders = (Path("kcircuits-demo"), Path("../kcircuits-demo"))
folder = Path(os.environ.get("KCIRCUITS_DEMO") or next((f for f in folders if f.exists()), "."))
manifest = kc.load_manifest(folder / "checkpoints_manifest.yaml")
facts = kc.load_facts(manifest.facts)
run = kc.open_run(folder / "runs" / manifest.run)
print(f"{manifest.run}: {len(facts)} facts, epochs {', '.join(run.epochs)}")
print(f"{run.method}, {run.n_edges:,} of {run.topology.n_edges:,} edges per circuit")

# %% [markdown]
# ## The facts
# Each fact has discovery prompts, which its circuit is found on, and evaluation prompts, which it
# is judged on and which were never trained.

# %%
fact = facts[0]
print(fact.subject, "|", fact.relation, "|", fact.object, "|", dict(fact.strata))
for idx, prompt in enumerate(fact.prompts[:3]):
    print(f"{fact.use_of(idx):>10}  {prompt.clean!r} -> {prompt.target!r}")
    print(f"{'corrupt':>10}  {prompt.corrupt!r} -> {prompt.foil!r}")
Counter(f"{f.strata['split']}, frequency {f.strata['frequency']}" for f in facts)

# %% [markdown]
# ## Loss falls smoothly; knowledge does not
# The loss of training beside the share of untrained paraphrases that the model answers right.

# %%
strata = {f.id: f"{f.strata['split']} {f.strata['frequency']}" for f in facts}
figure = go.Figure()
for stratum in dict.fromkeys(strata.values()):
    share = [
        np.mean(
            [
                row["known"]
                for row in run.probes
                if row["checkpoint"] == epoch and strata[row["fact"]] == stratum
            ]
        )
        for epoch in run.epochs
    ]
    figure.add_scatter(x=run.epochs, y=share, name=stratum, mode="lines+markers")
figure.update_layout(
    xaxis_title="epoch", yaxis_title="paraphrases answered right (share)", yaxis_range=[0, 1.05]
)
figure

# %%
for row in run.train:
    if row.get("loss") is not None:
        print(f"epoch {row['epoch']}: loss {row['loss']:.3f} nats per token")

# %% [markdown]
# ## One circuit per fact and epoch
# A cell of the results holds a fact's scores at one epoch, and how faithful its circuit was on
# prompts that it was not found on. Facts that the model does not know have no faithfulness: there
# is nothing to be faithful to.

# %%
last = run.epochs[-1]
for cell in run.cells(last)[:8]:
    faithfulness = cell.values["faithfulness"]
    text = "    -" if faithfulness is None else f"{faithfulness:5.2f}"
    print(f"{cell.fact_id:24} known {cell.is_known!s:5} faithfulness {text}")

# %% [markdown]
# ## Did the circuits change, and is it more than noise?
# The Jaccard of circuits found on *different halves* of a fact's prompts at two epochs stands
# beside its noise ceiling (halves at one epoch) and chance. *Turnover* is 0 where the two epochs
# differ no more than the halves do, and 1 at chance. The verdict may be that one cannot tell.

# %%
middle = run.epochs[len(run.epochs) // 2]
diff = run.diff(middle, last, by="frequency")


def text(value):
    return "-" if value is None else f"{value:.2f}"


for row in diff.rows:
    print(
        f"{row['stratum']:>8}: Jaccard {text(row['jaccard'])}, ceiling {text(row['ceiling'])}, "
        f"chance {text(row['chance'])}, turnover {text(row['turnover'])} -> {row['verdict']} "
        f"({row['reason']})"
    )

# %%
diff.plot()

# %%
print("acquired: ", *diff.facts.acquired)
print("forgotten:", *diff.facts.forgotten)

# %% [markdown]
# ## The circuit as a graph
# The difference of one fact is a networkx graph whose edges carry their scores at both epochs.

# %%
compared = [row["fact"] for row in diff.fact_rows]
graph = diff.graph(compared[-1])
print(graph)
Counter(data["status"] for _, _, data in graph.edges(data=True))

# %% [markdown]
# ## All epochs at once
# The same for every pair of epochs. The diagonal is the noise ceiling: how alike circuits of other
# prompts are at *one* epoch. Turnover takes that out.

# %%
overlap = run.overlap()
overlap.plot()

# %%
overlap.plot("turnover")


# %%
for row in overlap.previous.rows:
    print(
        f"{row['from']} -> {row['to']}: {row['facts']:3} facts, turnover {text(row['turnover'])} "
        f"-> {row['verdict']} ({row['reason']})"
    )

# %% [markdown]
# ## Circuits from epoch to epoch
# Which edges are born and die, beside what swapped epoch labels give; how long they live; how deep
# circuits lie. An edge counts where both halves of the prompts agree.

# %%
track = run.track(by="knowledge")
for row in track.rows:
    if row["compared"]:
        print(
            f"{row['stratum']:>12}, to {row['epoch']}: born {text(row['births'])} "
            f"(noise {text(row['births_swapped'])}), died {text(row['deaths'])} "
            f"(noise {text(row['deaths_swapped'])}), mean layer of senders {text(row['depth'])}"
        )

# %%
track.plot()

# %% [markdown]
# Every fact's history is a graph as well: when an edge was first and last seen, how long it lived,
# and its score at every epoch.

# %%
history = track.graph(compared[-1])
sender, receiver, data = max(history.edges(data=True), key=lambda edge: edge[2]["lifetime"])
print(sender, "->", receiver, data)

# %% [markdown]
# ## All about one fact

# %%
inspected = run.inspect(compared[-1])
inspected.plot()

# %% [markdown]
# ## Whose circuit is it?
# Circuits of different facts at the last epoch: are those of one relation more alike than others?
# 1 is as alike as the halves of one fact, 0 is chance.

# %%
between = run.fact_overlap(last)
for row in between.rows:
    print(f"{row['group']} {row['stratum'] or ''}: {row['pairs']} pairs, {text(row['shared'])}")
between.plot()

# %% [markdown]
# ## Does turnover precede forgetting?
# Facts known at both ends of a step: did the circuits of those that are forgotten in the next step
# turn over more? A short training forgets too few facts to tell, and says so.

# %%
found = kc.link([run])
for row in found.rows:
    print(f"AUROC {text(row['auroc'])}, p {text(row['p'])}: {row['verdict']} ({row['reason']})")

# %% [markdown]
# ## The same numbers from the model
# Everything above was read from disk. Here the circuit of one fact is computed again from the last
# checkpoint.

# %%
import torch  # only this part needs a model

model = kc.load_model(manifest[last], dtype=torch.float32)
known = next((cell.fact_id for cell in run.cells(last) if cell.is_known), facts[0].id)
batch = kc.tokenize(model, [f for f in facts if f.id == known])
scores = kc.attribute(model, batch, method=run.method, ig_steps=5)
circuits = kc.select(scores, n_edges=run.n_edges)
result = kc.evaluate(model, batch, circuits)
print(known, dict(result.row(known)))
stored = run.cells(last, [known])[0]
print("stored:", stored.values["metric"])
scores.top_edges(known, 8)

# %%
assert abs(result.metric[0] - stored.values["metric"]) < 1e-3

# %% [markdown]
# ## What heads do, and where they read it
# What each head adds to the answer's logit, by the positions that it reads: a *mover* reads the
# subject, a *relation* head the rest of the prompt. The logit lens gives the answer as each layer
# would. Numbers that are not in the run folder yet are computed.

# %%
lenses = run.lenses([middle, last])
for row in lenses.role_rows:
    print(
        f"{row['epoch']}: {text(row['heads'])} heads a fact are {row['role']}, "
        f"{text(row['replicated'])} of them in other prompts too (chance {text(row['chance'])})"
    )

# %%
lenses.plot()

# %% [markdown]
# ## Circuits of one epoch on the weights of another
# If the circuit of a fact stays where it is, that of an earlier epoch works as well later on.

# %%
transfer = run.transfer(sources=[middle, last], targets=[middle, last])
for row in transfer.rows:
    if row["set"] == "mean of ratios":
        print(
            f"circuits of {row['from']} on {row['to']}: faithfulness {text(row['faithfulness'])}, "
            f"its own {text(row['own'])}, random {text(row['random'])}"
        )

# %%
transfer.plot()

# %% [markdown]
# ## Another way to the circuit: edge pruning
# Attribution scores every edge by what would happen if it alone were ablated. *Edge pruning* learns
# which edges can be ablated together: every edge has a gate, and training closes as many gates as
# it is told to while the output stays what it was. What it keeps for an edge is not a score but
# the probability that the edge is kept, which has no sign.

# %%
pruned = kc.prune(model, batch, n_edges=run.n_edges)
judged = kc.evaluate(model, batch, pruned)
for name, found, numbers in (("attributed", circuits, result), ("pruned", pruned, judged)):
    edges, faithfulness = found.n_edges[0], numbers.faithfulness[0]
    print(f"{name:>10}: {edges:4} edges, faithfulness {faithfulness:.2f}")
both = (circuits.mask & pruned.mask).sum() / (circuits.mask | pruned.mask).sum()
print(f"Jaccard of the two: {both:.2f}")

# %% [markdown]
# The demo has done so for a few facts; their circuits lie beside the others in the run. `evaluate`
# judges them anew: each fact with an interval over its prompts, beside random circuits of as many
# edges, of as many between the same layers, and of as many at the same nodes. (The small graph of
# the smoke preset leaves the last kind little to choose.)

# %%
beside = kc.open_run(run.path, method="edge-pruning")
evaluations = {
    results.method: results.evaluate(last, fact_ids=beside.fact_ids, n_draws=3)
    for results in (run, beside)
}
for method, evaluation in evaluations.items():
    for row in evaluation.set_rows:
        print(f"{method:>13}, {row['set']} over {row['facts']} facts: {row['faithfulness']:.2f}")

# %%
evaluations["edge-pruning"].plot()

# %%
for results in (run, beside):
    stored = results.cells(last, beside.fact_ids)
    for row, cell in zip(evaluations[results.method].fact_rows, stored, strict=True):
        assert abs(row["metric"] - cell.values["metric"]) < 1e-3
