"""A Trainer of ``lab train`` on rows that are the same in every epoch, without probes."""

from kcircuits.lab.training.loss_meter import LossMeter
from kcircuits.lab.training.spec import TrainSpec
from kcircuits.lab.training.trainer import ContinualTrainer, Course, training_arguments


def trainer_of_rows(
    model,
    rows,
    out,
    *,
    anchor=None,
    after=(0, 0),
    progress=None,
    callbacks=(),
    meter=None,
    precision="float32",
    **settings,
):
    """Trains on all rows in each epoch; ``after`` is the epoch and step to go on after."""
    spec = TrainSpec(**{"batch_size": len(rows), "n_epochs": 1} | settings)
    course = Course(
        spec=spec,
        shown=lambda _: rows,
        n_most=len(rows),
        precision=precision,
        anchor=anchor,
        epoch=after[0],
        step=after[1],
    )
    args = training_arguments(spec, out, name="rows", n_before=after[0])
    meter = LossMeter() if meter is None else meter
    return ContinualTrainer(
        model, args, course, meter=meter, progress=progress, callbacks=callbacks
    )
