"""`python -m workflow_archiver` is the command `torch-workflow-archiver`."""

from workflow_archiver.workflow_packaging import generate_workflow_archive

if __name__ == "__main__":
    generate_workflow_archive()
