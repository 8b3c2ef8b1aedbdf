"""What is shown: functions from ``tpnet.model`` to rich renderables. They never print, nor read a clock."""
