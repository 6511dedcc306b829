"""What MeasuredLR says, each once."""

from __future__ import annotations

CANNOT = """\
MeasuredLR cannot evaluate this loss at other weights: {reason}.

Let it run the forward pass and the loss itself; the rest of the loop stays as it is:

    loss = optimizer.watch(lambda: loss_fn(model(x), y))
    loss.backward()
    optimizer.step()

or give step() a closure that returns the loss: optimizer.step(lambda: loss_fn(model(x), y))"""
PASS_THE_MODEL = "\n\nPass the model: surefoot.MeasuredLR(optimizer, model)."
ANOTHER_MODEL = (
    "\n\nIs the model that was passed the one that the loop calls? One that was compiled or "
    "wrapped after it was passed is another one."
)
ENDLESS = (
    "{optimizer}'s own step is not finite, though loss and gradient are: with weights in {dtype} "
    "its eps may be 0. Keep them in float32, and let autocast compute in half precision"
)
MOMENTUM = (
    "{optimizer} has momentum that none of its settings turns off, and averaged weights do badly "
    "with it: they are not averaged, and the rate is held. Pass total_steps if the length of the "
    "run is known; averaging=True averages them all the same"
)
ROUGH = (
    "weights in half precision round small steps away, and cannot be averaged: keep them in "
    "float32, and let autocast compute in half precision; or end the run by finish(steps)"
)
NOT_ITS_GRADIENT = (
    "the gradients at step() are not the last loss's alone (accumulated, clipped one by one, "
    "changed by the optimizer), so slopes are measured from losses: one more forward pass a "
    "measurement"
)
OTHER_GRADIENT = (
    "the gradient does not tell how the loss falls along the step (it was changed before step(), "
    "or belongs to more than this loss), so slopes are measured from losses: one more forward pass "
    "a measurement"
)
MISFIT = (
    "the loss along the updates is no parabola, so the measured learning rate is taken from the "
    "cautious end of its interval; see optimizer.rate"
)
BOTTOMLESS = (
    "along most updates the loss has no minimum but falls ever faster, so no learning rate can be "
    "measured, and the rate grows with the steps: losses that nothing holds from below, such as a "
    "bare policy gradient, want a rate of yours"
)
FLAT = (
    "no learning rate could be measured: along the updates the loss changes by less than its "
    "rounding. Is the loss scaled down, or solved already?"
)
REFUSED = "the loss or its gradient was not finite {n} times in a row; these batches are left out"
BROKEN = (
    "{n} losses in a row were not finite{weights}: go back to a checkpoint, and look at the data "
    "of these batches"
)
IN_TURNS = (
    "two measured optimizers step the same weights in turn, so neither averages them: give both "
    "total_steps, or one optimizer all parameters and the sum of the losses"
)
PAST_THE_END = (
    "the run goes on after its total_steps={total}: steps are zero from here on; set "
    "optimizer.total_steps to the new length"
)
MAX_LR = (
    "OneCycleLR's max_lr={top:g} is {times:.3g} times the group's lr, and that many measured rates "
    "will be applied at its peak: under MeasuredLR the lr is only a unit. Pass max_lr={unit:g}"
)
SCHEDULE = (
    "a scheduler lowers the rate on top of MeasuredLR's own horizon, so it falls twice: leave the "
    'scheduler out (Hugging Face: lr_scheduler_type="constant"), or pass horizon="none"'
)
NO_CLOSURE_TAKES_A_LOSS = (
    "step() takes no loss: call loss.backward(), then optimizer.step(), or give step() a function "
    "that returns the loss"
)
WATCH_TAKES_A_FUNCTION = (
    "watch() takes a function that returns the loss: loss = optimizer.watch(lambda: "
    "loss_fn(model(x), y)); then loss.backward()"
)
NO_GRADIENT = (
    "step() found no gradient {n} times: call loss.backward() before it, zero_grad() after it, and "
    "check that the loss comes from the model whose parameters the optimizer has"
)
SCALER = (
    "scaler.step(optimizer, closure) would differentiate without the scale: call "
    "scaler.scale(loss).backward() in the loop, then scaler.step(optimizer)"
)
