"""The conformance kit: laws that a policy must keep, each with the failure that it would have caught."""
