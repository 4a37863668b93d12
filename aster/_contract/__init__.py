"""Contracts of services: their canonical form and id, and whether two versions understand each other."""

from __future__ import annotations

from aster._contract.evolution import MAX_DIFFERENCES, contract_differences, summary
from aster._contract.form import CONTRACT_LIMIT, MAX_FORM_DEPTH, Contract, MalformedContractError, decode_form, encode_form, id_of
from aster._contract.service import contract_id, contract_of, known_contract

__all__ = [
    "CONTRACT_LIMIT",
    "MAX_DIFFERENCES",
    "MAX_FORM_DEPTH",
    "Contract",
    "MalformedContractError",
    "contract_differences",
    "contract_id",
    "contract_of",
    "decode_form",
    "encode_form",
    "id_of",
    "known_contract",
    "summary",
]
