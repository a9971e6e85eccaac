"""The ROS 2 node `segment`; the only place that imports rclpy."""
