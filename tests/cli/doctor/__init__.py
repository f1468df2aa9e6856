"""Tests of `oci-mesh doctor`: each finding is provoked."""
