"""What is installed, what is missing and how to mend it. Standard library only at import; every probe is guarded."""

from innerq_export.doctor.finding import Finding, State
from innerq_export.doctor.report import Report, examine

__all__ = ["Finding", "Report", "State", "examine"]
