"""What ``balog check`` reports, by subject. ``run`` puts the report together."""
