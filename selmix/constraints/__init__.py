"""Constraints on the confusion matrix: floors and ceilings of recall, precision, coverage and any metric."""

from selmix.constraints.ascent import ascend_multipliers, lagrangian
from selmix.constraints.constraint import Constraint, joint_slack, joint_smooth_slack
from selmix.constraints.ranking import rank_key
from selmix.constraints.report import Feasibility, feasibility
from selmix.constraints.request import ConstraintRequest, bind_constraints, parse_constraint

__all__ = [
    "Constraint",
    "ConstraintRequest",
    "Feasibility",
    "ascend_multipliers",
    "bind_constraints",
    "feasibility",
    "joint_slack",
    "joint_smooth_slack",
    "lagrangian",
    "parse_constraint",
    "rank_key",
]
