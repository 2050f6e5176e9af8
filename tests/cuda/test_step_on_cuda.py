"""One training step of MonoSKD on a GPU against the CPU, in other precisions, and without waiting for the GPU."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from workload import Workload

from monoskd.distill import Distilled

pytestmark = pytest.mark.cuda


@pytest.fixture
def exact() -> Iterator[None]:
    """float32 without TF32, in which convolutions and products keep ten bits."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def losses_and_gradients(workload: Workload) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    losses = workload.losses()
    torch.stack([*losses.values()]).sum().backward()
    gradients = {name: value.grad for name, value in workload.trained.named_parameters() if value.grad is not None}
    return {name: value.detach().cpu() for name, value in losses.items()}, {n: g.cpu() for n, g in gradients.items()}


@pytest.mark.parametrize(("dtype", "loss", "slope"), [(torch.float64, 1e-9, 1e-6), (torch.float32, 1e-4, 3e-3)])
@pytest.mark.parametrize("recipe", ["student", "monoskd", "monodistill"])
def test_a_step_is_the_step_of_the_cpu(
    exact: None, device: torch.device, recipe: str, dtype: torch.dtype, loss: float, slope: float
) -> None:
    """slope: of a gradient's norm, apart from a rounding of the largest one."""
    places = (torch.device("cpu"), device)
    made = {place.type: Workload.make(recipe, device=place, small=True) for place in places}
    if dtype == torch.float64:
        made = {name: workload.double() for name, workload in made.items()}
    losses, gradients = losses_and_gradients(made["cpu"])
    others, pulls = losses_and_gradients(made[device.type])
    assert others.keys() == losses.keys()
    for name, value in losses.items():
        torch.testing.assert_close(
            others[name], value, rtol=loss, atol=loss / 100, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert pulls.keys() == gradients.keys()
    rounding = torch.finfo(dtype).eps * max(float(gradient.norm()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        apart, size = float((pulls[name] - gradient).norm()), float(gradient.norm())
        assert apart < slope * size + rounding, (name, apart, size)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_learns(device: torch.device, dtype: torch.dtype) -> None:
    if device.type == "cpu" and dtype == torch.float16:
        pytest.skip("a CPU trains in bfloat16 only")
    workload = Workload.make("monoskd", device=device, small=True, autocast=dtype)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    losses = [float(workload.step(scaler)) for _ in range(8)]
    assert all(torch.tensor(losses).isfinite())
    assert min(losses[4:]) < losses[0]


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("recipe", ["student", "monoskd", "monodistill"])
def test_a_step_never_waits_for_the_gpu(device: torch.device, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step of `monoskd train`, and one of the optimiser."""
    workload = Workload.make(recipe, device=device, small=True)
    training, batch = workload.training()
    monkeypatch.setattr(training, "log_dict", lambda values: None)  # reads them once in `log_every` steps
    for _ in range(2):  # lazy shapes, cudnn's choice of algorithms
        workload.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
    try:
        training.training_step(batch, 0).backward()
        workload.step()
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("default")  # of the compiler's own imports
def test_a_compiled_step_has_the_same_losses(device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("inductor compiles for minutes on a CPU")
    plain, compiled = (Workload.make("monoskd", device=device, small=True, compile=c) for c in (False, True))
    one, other = plain.losses(), compiled.losses()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-2, atol=1e-3)


def test_outputs_stay_on_the_device(device: torch.device) -> None:
    out = Workload.make("monoskd", device=device, small=True).outputs()
    assert isinstance(out, Distilled)
    assert {value.device.type for value in out.terms.values()} == {device.type}
