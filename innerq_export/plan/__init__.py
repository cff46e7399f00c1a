"""What a build will take, from config.json and safetensors headers alone, and what it took: memory, disk, time."""

from innerq_export.plan.guard import check_plan
from innerq_export.plan.history import record_build
from innerq_export.plan.meter import Meter
from innerq_export.plan.plan import Plan, make_plan

__all__ = ["Meter", "Plan", "check_plan", "make_plan", "record_build"]
