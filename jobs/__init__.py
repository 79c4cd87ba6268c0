"""The Ray side of dray: entry points and the dataflow. Touches models only through `pipelines`."""
