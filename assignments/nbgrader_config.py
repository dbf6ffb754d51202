"""nbgrader's settings for this course; its own commands in this folder follow them, too."""

from reprobook.course.isolated import autograde_steps, feedback_steps, sanitize_steps

c = get_config()  # noqa: F821 - nbgrader provides it

c.CourseDirectory.course_id = "papers-you-can-rerun"
c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__", ".DS_Store"]

# Deleted cells come back, student code runs in a process of its own, hidden tests stay hidden.
c.Autograde.sanitize_preprocessors = sanitize_steps()
c.Autograde.autograde_preprocessors = autograde_steps()
c.GenerateFeedback.preprocessors = feedback_steps()
c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\nraise NotImplementedError"}
