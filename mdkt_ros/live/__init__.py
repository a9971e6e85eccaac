"""Labelling of a live sensor, without ROS: the newest scan or none, its images, its outputs, and how well it goes."""
