"""Training that stops: at what is not finite, at an interrupt, at input that makes no sense."""

import _thread
import re
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import estimand as em
from tests.messages import check_message
from tests.test_train import (
    ADAM,
    DATA,
    ROWS,
    START,
    assert_same,
    batches,
    quadratic,
    run,
    spread,
    whole,
)


def holed(row):
    x = DATA[0].copy()
    x[row] = np.nan
    return x, DATA[1]


@pytest.mark.legs
def test_a_value_that_is_not_finite_stops_before_the_update():
    seen = batches(24, key=jax.random.key(1))
    first = [next(step for step, rows in enumerate(seen) if row in rows) for row in range(ROWS)]
    row = int(np.argmax(first))
    with pytest.raises(em.NonFiniteError) as caught:
        run(24, data=holed(row))
    assert caught.value.fit.step == first[row] > 0
    assert_same(caught.value.fit, run(first[row]))


def test_what_is_not_finite_is_named():
    with pytest.raises(em.NonFiniteError) as caught:
        run(24, data=holed(0))
    where = r"training, step \d \(test_train\.py:\d+\)"
    batch = r"argument \[1\]\[0\] is NaN in 1 of 3 entries"
    assert re.match(f"{where}: {batch}", str(caught.value))
    assert "got:      the value (nan), the gradient of params['log_scale']" in str(caught.value)
    assert isinstance(caught.value, em.EstimandError)
    assert isinstance(caught.value, FloatingPointError)


def test_the_message_of_what_is_not_finite():
    check_message("training with a NaN in the data", minimize, data=holed(0), batch_size=None)


def test_a_gradient_alone_that_is_not_finite():
    @em.expectation
    def root(x):
        return em.draw(dist.Normal(0.0, 1.0)) + jnp.sqrt(x["at"]) + x["other"]

    start = {"at": 0.0, "other": 1.0}
    with pytest.raises(em.NonFiniteError, match=r"got: +the gradient of params\['at'\], the upd"):
        em.minimize(root, start, ADAM, key=jax.random.key(0), steps=3, progress=False)


def test_an_update_alone_that_is_not_finite():
    with pytest.raises(em.NonFiniteError, match=r"got: +the update of params\n") as caught:
        em.minimize(
            quadratic, 0.0, optax.sgd(np.inf), key=jax.random.key(0), steps=3, progress=False
        )
    assert caught.value.fit.params == 0.0 and caught.value.fit.step == 0


def test_an_interrupt_in_a_callback_returns_what_there_is():
    def interrupt(step, value, params):
        if step == 7:
            raise KeyboardInterrupt

    stopped = run(24, callback=interrupt)
    assert stopped.step == 7
    assert_same(run(17, resume=stopped), whole())


def test_an_interrupt_at_any_time_returns_what_there_is(capsys):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup has it ignored
    timer = threading.Timer(10.0, _thread.interrupt_main)
    timer.start()
    fit = run(10**8, progress=True)
    timer.join()
    assert 0 < fit.step < 10**8
    assert fit.history.shape == (fit.step,)
    assert f"interrupted after step {fit.step}" in capsys.readouterr().out


def test_no_steps_make_a_fit_to_compare_with():
    fit = run(0)
    assert fit.step == 0 and fit.history.shape == (0,)
    assert jax.tree.structure(fit) == jax.tree.structure(whole())


# What is shown


def test_the_plan_is_printed_once_and_the_bar_shows_the_value(capsys):
    fit = run(24, progress=True)
    out, err = capsys.readouterr()
    assert out == spread.explain(START, (DATA[0][:3], DATA[1][:3]), 0.5) + "\n"
    assert "24/24" in err and re.search(r"value \d", err)
    assert_same(fit, whole())


def test_silence(capsys):
    run(3)
    assert capsys.readouterr() == ("", "")


# Bad input

SETTINGS = dict(key=jax.random.key(0), steps=3, args=(0.5,), data=DATA, batch_size=3)
SETTINGS["progress"] = False
REFUSED = {
    "no objective": dict(objective=42),
    "nothing to train": dict(params={"n": 3}),
    "an optimizer not called": dict(optimizer=42),
    "negative steps": dict(steps=-1),
    "floating steps": dict(steps=10.0),
    "args of one": dict(args=2.0),
    "no key": dict(key=3),
    "a batch without data": dict(data=None),
    "a batch larger than the data": dict(batch_size=11),
    "an empty batch": dict(batch_size=0),
    "no rows": dict(data=(np.zeros(0), np.zeros((0, 2)))),
    "no arrays": dict(data={}),
    "unequal lengths": dict(data=(np.zeros(10), np.zeros((9, 2)))),
    "a number for data": dict(data=(np.zeros(10), 3.0)),
    "lists for data": dict(data=([1.0] * 10, [2.0] * 10)),
    "parameters to resume": dict(resume=START),
    "no samples": dict(num_samples=0),
}


def minimize(objective=spread, params=START, optimizer=ADAM, **settings):
    return em.minimize(objective, params, optimizer, **(SETTINGS | settings))


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused(name):
    check_message(f"training with {name}", minimize, **REFUSED[name])


def test_training_inside_a_transformation_is_refused():
    mapped = jax.vmap(lambda start: minimize(params={**START, "mean": start}).params)
    check_message("training inside vmap", mapped, jnp.arange(3.0))


RESUMED = {
    "another key": dict(key=jax.random.key(2)),
    "another optimizer": dict(optimizer=optax.sgd(0.1)),
    "other parameters": dict(params={**START, "mean": np.zeros(3)}),
    "fewer parameters": dict(params={"mean": 0.0}),
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_is_continued_only_with_what_it_was_started_with(name):
    given = dict(key=jax.random.key(1), resume=whole()) | RESUMED[name]
    check_message(f"resuming with {name}", minimize, **given)
