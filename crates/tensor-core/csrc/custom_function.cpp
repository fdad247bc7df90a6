// An autograd node whose backward is written in Rust.
//
// Ownership: the node owns the Rust closure and drops it once, when backward has run without
// keeping the graph, or when the last tensor that refers to the node goes, on whatever thread.
// Tensors that backward needs are held as SavedVariable: libtorch then detects their in-place
// modification, and an output that is saved does not keep itself alive through its own node.

#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/basic_ops.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>

#include "shim.h"

using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// Takes ownership of `saved` and `grads` (nullptr: absent), and writes one owned tensor or
// nullptr an input to `input_grads`. Returns nullptr or a malloc'd message.
using BackwardFn = char* (*)(void* closure, at::Tensor** saved, size_t saved_count,
                             at::Tensor** grads, size_t grad_count, const bool* needs,
                             at::Tensor** input_grads, size_t input_count);
using DropFn = void (*)(void* closure);

namespace {

at::Tensor* to_heap(at::Tensor tensor) {
  return tensor.defined() ? new at::Tensor(std::move(tensor)) : nullptr;
}

class RustNode : public Node {
 public:
  RustNode(std::string name, std::shared_ptr<void> closure, BackwardFn backward,
           bool twice_differentiable)
      : name_(std::move(name)),
        closure_(std::move(closure)),
        backward_(backward),
        twice_differentiable_(twice_differentiable) {}
  RustNode(const RustNode&) = delete;
  RustNode& operator=(const RustNode&) = delete;

  std::string name() const override { return name_; }

  void save(std::vector<SavedVariable> saved) { saved_ = std::move(saved); }

  variable_list apply(variable_list&& grads) override {
    // One backward at a time: the closure need not be shareable between threads. A backward
    // that the closure itself starts may come back here, hence recursive.
    std::lock_guard<std::recursive_mutex> one_at_a_time(running_);
    std::shared_ptr<void> closure;
    variable_list saved;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      closure = closure_;
      if (!closure) {
        throw std::runtime_error(name_ +
                                 ": backward a second time through a graph that the first "
                                 "backward freed; keep the graph in the first");
      }
      for (const SavedVariable& variable : saved_) {
        saved.push_back(variable.unpack(shared_from_this()));
      }
    }
    if (twice_differentiable_ || !at::GradMode::is_enabled()) {
      return call(closure.get(), saved, grads);
    }
    variable_list input_grads;
    {
      const at::NoGradGuard no_grad;
      input_grads = call(closure.get(), saved, grads);
    }
    refuse_second_derivative(input_grads, grads);
    return input_grads;
  }

  void release_variables() override {
    std::shared_ptr<void> closure;
    std::vector<SavedVariable> saved;
    std::lock_guard<std::mutex> lock(mutex_);
    closure.swap(closure_);
    saved.swap(saved_);
    // The lock goes first, then what was swapped out: dropping that can reach other nodes.
  }

 private:
  variable_list call(void* closure, const variable_list& saved, const variable_list& grads) {
    std::vector<at::Tensor*> saved_ptrs, grad_ptrs;
    for (const at::Tensor& tensor : saved) saved_ptrs.push_back(to_heap(tensor));
    for (const at::Tensor& tensor : grads) grad_ptrs.push_back(to_heap(tensor));
    const size_t inputs = num_outputs();
    const std::unique_ptr<bool[]> needs(new bool[inputs]);
    for (size_t i = 0; i < inputs; ++i) needs[i] = task_should_compute_output(i);
    std::vector<at::Tensor*> results(inputs, nullptr);
    char* message = backward_(closure, saved_ptrs.data(), saved_ptrs.size(), grad_ptrs.data(),
                              grad_ptrs.size(), needs.get(), results.data(), inputs);
    variable_list input_grads(inputs);
    for (size_t i = 0; i < inputs; ++i) {
      const std::unique_ptr<at::Tensor> owned(results[i]);
      if (owned) input_grads[i] = std::move(*owned);
    }
    if (message) {
      const std::string text(message);
      free(message);
      throw std::runtime_error(name_ + ": " + text);
    }
    return input_grads;
  }

  // The closure's operations were not recorded. Without a history of their own the gradients
  // would pass for constants, and a second derivative for zero.
  void refuse_second_derivative(variable_list& input_grads, const variable_list& grads) {
    torch::autograd::edge_list edges = torch::autograd::collect_next_edges(grads);
    edges.insert(edges.end(), next_edges().begin(), next_edges().end());
    const std::shared_ptr<Node> refusal(
        new torch::autograd::Error(name_ + ": has no second derivative", std::move(edges)),
        torch::autograd::deleteNode);
    for (at::Tensor& grad : input_grads) {
      if (!grad.defined()) continue;
      grad = grad.detach();
      torch::autograd::set_history(grad, refusal);
    }
  }

  const std::string name_;
  std::shared_ptr<void> closure_;
  const BackwardFn backward_;
  const bool twice_differentiable_;
  std::vector<SavedVariable> saved_;
  std::recursive_mutex running_;
};

// The index of the tensor in `list` that is `tensor` itself, or -1.
int index_of(const at::Tensor& tensor, at::Tensor* const* list, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (tensor.unsafeGetTensorImpl() == list[i]->unsafeGetTensorImpl()) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

bool shares_memory(const at::Tensor& output, at::Tensor* const* inputs, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (inputs[i]->defined() && output.is_alias_of(*inputs[i])) return true;
  }
  return false;
}

// A tensor of its own on `output`'s memory, so that history set on it touches neither an input
// that was returned as it is, nor a tensor that the closure holds. Both count in-place
// modifications together.
at::Tensor with_history(const at::Tensor& output, bool shares_input_memory,
                        const std::shared_ptr<Node>& node) {
  if (!torch::autograd::isDifferentiableType(output.scalar_type())) {
    node->add_input_metadata(Node::undefined_input());
    return output.detach();
  }
  if (!shares_input_memory) {
    at::Tensor result = output.detach();
    torch::autograd::set_history(result, node);
    return result;
  }
  // As for PyTorch's custom functions: modifying it in place would change the input behind
  // autograd's back, and this mark makes it an error.
  const at::NoGradGuard no_grad;
  at::Tensor result = output.view_as(output);
  torch::autograd::set_history(result, node);
  torch::autograd::impl::get_view_autograd_meta(result)->set_creation_meta(
      torch::autograd::CreationMeta::IN_CUSTOM_FUNCTION);
  return result;
}

}  // namespace

// Gives `outputs`, computed without autograd from `inputs`, a node whose backward is `backward`.
// Writes one new tensor an output to `results`. Takes ownership of `closure` in every case.
SHIM_EXPORT char* b4_custom_function_attach(const char* name, at::Tensor* const* inputs,
                                            size_t input_count, at::Tensor* const* outputs,
                                            size_t output_count, at::Tensor* const* saved,
                                            size_t saved_count, void* closure,
                                            BackwardFn backward, DropFn drop,
                                            bool twice_differentiable, at::Tensor** results) {
  return shim_protect([&] {
    std::shared_ptr<void> owned(closure, drop);
    variable_list input_list;
    bool record = false;
    for (size_t i = 0; i < input_count; ++i) {
      input_list.push_back(*inputs[i]);
      record |= inputs[i]->requires_grad();
    }
    record &= at::GradMode::is_enabled();
    variable_list wrapped;
    if (!record) {
      for (size_t i = 0; i < output_count; ++i) wrapped.push_back(outputs[i]->detach());
    } else {
      std::shared_ptr<RustNode> node(
          new RustNode(name, std::move(owned), backward, twice_differentiable),
          torch::autograd::deleteNode);
      node->set_next_edges(torch::autograd::collect_next_edges(input_list));
      for (size_t i = 0; i < output_count; ++i) {
        const bool shares = shares_memory(*outputs[i], inputs, input_count);
        wrapped.push_back(with_history(*outputs[i], shares, node));
      }
      std::vector<SavedVariable> kept;
      for (size_t i = 0; i < saved_count; ++i) {
        const bool is_input = index_of(*saved[i], inputs, input_count) >= 0;
        const int output = is_input ? -1 : index_of(*saved[i], outputs, output_count);
        const at::Tensor& keep = output >= 0 ? wrapped[output] : *saved[i];
        // An integer output has no history: it is saved like any other tensor.
        kept.emplace_back(keep, output >= 0 && keep.requires_grad());
      }
      node->save(std::move(kept));
    }
    for (size_t i = 0; i < output_count; ++i) results[i] = new at::Tensor(wrapped[i]);
  });
}
