"""Comparing mixers: tasks, equal budgets, several seeds, costs, portraits, and one report."""

from tokenmix.compare.model import ModelConfig, TaskModel
from tokenmix.compare.task import Batch, Task, build_task, list_tasks, register_task

__all__ = ["Batch", "ModelConfig", "Task", "TaskModel", "build_task", "list_tasks", "register_task"]
