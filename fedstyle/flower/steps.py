"""What a device of a federation over the network lets in of a secure sum: messages of the operator, under a register of the authority."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from flwr.app import ConfigRecord, RecordDict

from fedstyle.errors import WireError
from fedstyle.flower.orders import take_proof
from fedstyle.flower.policy import Policy, RefusedError, Standing, admit, check_allowed, check_bytes, check_signed
from fedstyle.flower.secure import SIGNED, SUM, Plan, Step
from fedstyle.flower.vouching import REGISTER, Register, keep_register, read_register
from fedstyle.flower.wire import CodedError, Contract, Failure

MOST = 1 << 24
"""Bytes of a step, at most: room for 65,536 clients' keys."""


def admit_step(
    content: RecordDict,
    home: Path,
    policy: Policy,
    contract: Contract,
    operator: Ed25519PublicKey | None,
    authority: Path,
    *,
    clock: Callable[[], float] = time.time,
) -> tuple[Plan, RecordDict]:
    """The plan of a secure sum with the register that holds in it, and the content of a message of that sum without its proof.

    The message that begins a round also brings the register, and is admitted as an order is; the others are no orders of their own. Raises
    what `admit` does.
    """
    assert contract.secure is not None  # the caller looked
    try:
        step = Step.read(content)
        if step.name != SIGNED[0]:
            register, rest = Register.load(home), _admit_next(step, content, home, policy, operator, clock)
            if register is None:
                raise RefusedError(Failure.PHASE, f"a message of the step {step.name}, and no round has begun here")
        else:
            if len(step.body) > MOST:
                raise RefusedError(Failure.SIZE, f"{len(step.body)} bytes of terms; a step has at most {MOST}")
            said = content.config_records.get(REGISTER, ConfigRecord()).get("content")
            register = read_register(said if isinstance(said, bytes) else b"", authority, policy.register)
            plain = RecordDict({name: cast(Any, record) for name, record in content.items() if name not in (SUM, REGISTER)})
            begins = (step, register.federation)
            rest = admit("train", plain, home, policy, contract, operator, begins=begins, clock=clock)[1]
            keep_register(home, register)
            rest[SUM] = content.config_records[SUM]
    except CodedError as error:
        raise RefusedError(error.code, str(error)) from None
    except WireError as error:
        raise RefusedError(Failure.BASE, str(error)) from None
    return replace(contract.secure, register=register), rest


def _admit_next(
    step: Step, content: RecordDict, home: Path, policy: Policy, operator: Ed25519PublicKey | None, clock: Callable[[], float]
) -> RecordDict:
    """The content of a step after the first, without its proof."""
    check_allowed("train", home, policy)
    if len(step.body) > MOST or len(content) != 2:
        raise RefusedError(Failure.SIZE, f"{len(step.body)} bytes in {len(content)} records; a step has at most {MOST} in 2")
    rest, proof = take_proof(content)
    if operator is not None:
        check_signed("train", None, proof, operator, step)
    standing = Standing.load(home)
    standing.add(clock(), len(step.body))
    check_bytes(standing, policy)
    standing.save(home)
    return rest
